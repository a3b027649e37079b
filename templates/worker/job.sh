# The job. What it prints is shown by `mvmctl logs`.
date
sleep 60
