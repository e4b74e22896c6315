"""What a lab runs on: `real` starts the servers that `opslib lab build` made."""
