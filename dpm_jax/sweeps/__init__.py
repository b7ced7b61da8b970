"""Many runs: jobs by name, a pool that trains what is missing, and runs set side by side."""
