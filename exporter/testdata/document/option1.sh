# Option 1: Drop and recreate (loses existing mat view data)
psql -h ${HOST} -p ${PORT} -U scanner_admin -d ${DATABASE} <<EOF
DROP MATERIALIZED VIEW IF EXISTS job_progress CASCADE;
DROP TABLE IF EXISTS materialized_view_refresh_log;
\i terraform/migrations/002_optimize_for_scale.sql
EOF
