"""What docs/results.md is made of: the plan of its runs, how they are run, and the tables of what came out."""
