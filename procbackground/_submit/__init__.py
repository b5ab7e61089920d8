"""The caller's side: what turns a call into a job, before the supervisor takes it over."""
