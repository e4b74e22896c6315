"""Rules: facts in, findings out. One folder a chapter, a family of causes a file, no input or output."""
