"""Greedy and beam search with any model of the contract, n best texts, forced scores, alignments."""
