"""Log lines as kinds: what they have in common, how many there are of each, and whether that is more than usual. Pure, no input or output.

`masks` finds what varies within a line, `miner` groups lines into templates, `events` reads lines (plain, JSON, stack traces over many
lines) as a stream, `traces` says what a stack trace is about, `rates` whether a kind has become more frequent.
"""
