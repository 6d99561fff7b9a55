"""Audio in: sound files, lists of clips, data sets, and the log-mel front end."""
