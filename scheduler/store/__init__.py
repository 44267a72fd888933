"""All SQL. Nothing outside this package (and the migrations) speaks it."""
