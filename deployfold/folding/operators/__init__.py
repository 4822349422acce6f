"""What each operator does to channels: one record for each, in :mod:`.table`."""
