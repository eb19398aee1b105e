"""Many jobs: processes of this machine, a Ray cluster or anybody's executor, and maps over data sets in shards."""
