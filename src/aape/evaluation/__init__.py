"""What a score is: metrics, and the partitions of a labelled set into training, validation and test clips."""
