"""Regions and phrases in one space: tags, captions and aligned vectors (AlignCap, Sun et al.)."""
