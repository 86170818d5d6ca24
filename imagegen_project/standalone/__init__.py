"""Everything on one machine: embedded servers, folders, and the processes that run."""
