"""What the children run: functions at module level, so that they can be imported under every start method."""
