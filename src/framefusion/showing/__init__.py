"""How a reduction is shown to people: numbers in words, which tokens a picture still has, short HTML for notebooks."""
