"""Small helpers without a concept of their own. They import nothing of this package."""
