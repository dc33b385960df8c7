"""Reading and writing of dataset formats, one module each."""
