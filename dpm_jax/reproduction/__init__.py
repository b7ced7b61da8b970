"""The paper, whole: which runs it takes, what it says itself, and the page that shows both."""
