# bash reads this before KubeRay's command (BASH_ENV in ray/job.yaml). That follows the job's log, and ends with 0 whenever the
# head ends in good order, as after SIGTERM: Kubernetes would take the submission for done, and nobody would submit again to the
# new head. So it fails unless the job has ended, and the submitter's Job tries again.
unset BASH_ENV
ended() {
  python -c "
import sys
from ray.job_submission import JobSubmissionClient
sys.exit(not JobSubmissionClient('http://$RAY_DASHBOARD_ADDRESS').get_job_status('$RAY_JOB_SUBMISSION_ID').is_terminal())" 2>/dev/null
}
trap 'status=$?; if [ $status = 0 ] && ! ended; then echo "the job has not ended, its head has"; status=1; fi; exit $status' EXIT
