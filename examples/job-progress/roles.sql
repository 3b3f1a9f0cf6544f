-- Roles with no more rights than each needs; run by an administrator, once, with
--   psql -v exporter_password=… -v api_password=… -f roles.sql
--
-- scanner_admin owns the application's tables and runs Terraform.

-- Owns the view, and may read just what the view reads.
CREATE ROLE job_progress_owner NOLOGIN;
GRANT job_progress_owner TO scanner_admin;
GRANT USAGE, CREATE ON SCHEMA public TO job_progress_owner;
GRANT SELECT ON jobs, job_objects TO job_progress_owner;

-- The exporter's login. Refreshing takes membership in the view's owner; on
-- PostgreSQL 17 and later, MAINTAIN on the view would do. What it needs on the
-- tables of matview comes from writer_roles in main.tf.
CREATE ROLE matview_exporter LOGIN PASSWORD :'exporter_password';
GRANT job_progress_owner TO matview_exporter;

-- The login of ?real_time=true: it runs the view's query, and may do nothing else.
CREATE ROLE matview_real_time LOGIN PASSWORD :'api_password';
GRANT USAGE ON SCHEMA public TO matview_real_time;
GRANT SELECT ON jobs, job_objects TO matview_real_time;
ALTER ROLE matview_real_time SET default_transaction_read_only = on;
