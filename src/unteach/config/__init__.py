"""What a run is told: from the words of a command line to checked dataclasses."""
