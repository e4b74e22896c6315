"""What people read: HTML of findings and tables, reports, the index of runs."""
