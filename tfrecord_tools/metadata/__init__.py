"""Tables of metadata: their forms, words and rows."""
