"""A run on several machines: finding and joining the cluster, what each host logs, how all of them end."""
