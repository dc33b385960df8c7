"""Reading and writing of annotation sources and dataset formats."""
