"""The works that are measured, a module each: `measure(environment)` returns the rows of the report."""
