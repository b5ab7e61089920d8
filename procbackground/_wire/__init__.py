"""What crosses between parent and child, both ways: frames, pickles, parcels and the shared page."""
