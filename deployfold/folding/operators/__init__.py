"""The effect of each ATen operator on channels: :mod:`.table` holds one record per operator."""
