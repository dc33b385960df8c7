"""A cervical source: CSV files whose rows are slices, with LabelMe XML in a column."""
