"""The pipeline over many studies: engines, manifest, pseudonyms, progress."""
