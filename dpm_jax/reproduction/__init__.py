"""The paper reproduced: what its runs learned, as pictures."""
