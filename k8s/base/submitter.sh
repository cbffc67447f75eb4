# bash runs this before KubeRay's command (BASH_ENV in ray/job.yaml). That command follows the job's log, and exits with 0 whenever
# the head shuts down properly, as after SIGTERM. Kubernetes would then consider the submission complete, and nothing would submit
# the job again to the new head. This makes it fail unless the job has ended, so that the submitter's Job retries.
unset BASH_ENV
ended() {
  python -c "
import sys
from ray.job_submission import JobSubmissionClient
sys.exit(not JobSubmissionClient('http://$RAY_DASHBOARD_ADDRESS').get_job_status('$RAY_JOB_SUBMISSION_ID').is_terminal())" 2>/dev/null
}
trap 'status=$?; if [ $status = 0 ] && ! ended; then echo "the job has not ended, its head has"; status=1; fi; exit $status' EXIT
