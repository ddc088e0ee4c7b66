"""Six assignments: handouts cut out of the library, and a grader for solutions."""
