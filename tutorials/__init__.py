"""The course of tinylm2: lessons to step through, and assignments with a grader."""
