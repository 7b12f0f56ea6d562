"""How good a search is: exact figures, the protocol of the FELGA paper, its tables and its figures."""
