"""Files of generated answers: read row by row, scored in order, written whole."""
