"""Study files of other systems."""
