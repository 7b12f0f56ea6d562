"""An index as a whole: what it shows, and where its captions and its images disagree."""
