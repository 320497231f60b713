"""The machine under a job: devices, leases, locks, signals, files, log, timing, errors, random streams, digests."""
