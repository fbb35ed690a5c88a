"""What a recipe will cost: tokens, FLOPs, hours, disk and memory, before it starts."""
