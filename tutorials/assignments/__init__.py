"""Six assignments: a cutter that makes the handouts out of the library, and a grader that cannot be talked round."""
