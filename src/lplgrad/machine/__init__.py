"""The machine under a job: devices, leases, locks, signals, files, log, errors, random streams, code digests."""
