"""An index as a whole: what it shows, where its captions and images disagree, and its errors on labels."""
