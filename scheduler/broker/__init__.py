"""How batches travel from the scheduler to the workers: one port, an adapter a broker."""
