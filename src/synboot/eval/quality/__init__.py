"""What synthetic text is like: measures of it, each beside the same measure of real text."""
