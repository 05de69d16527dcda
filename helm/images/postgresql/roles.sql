-- One role for the hub and one for the service, each the owner of its one database. May be run again.
\set hub_password `cat /run/tessera-secrets/hub-password`
\set service_password `cat /run/tessera-secrets/service-password`

SELECT format('CREATE ROLE %I LOGIN', name) FROM unnest(ARRAY['hub', 'service']) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec

-- Not in the log, which shows failed statements.
SET log_min_error_statement = panic;
ALTER ROLE hub PASSWORD :'hub_password';
ALTER ROLE service PASSWORD :'service_password';
RESET log_min_error_statement;

SELECT format('CREATE DATABASE %I OWNER %I', database, role) FROM (VALUES ('jupyterhub', 'hub'), ('tessera', 'service')) AS wanted (database, role)
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = database) \gexec

REVOKE CONNECT ON DATABASE jupyterhub, tessera FROM PUBLIC;
REVOKE CONNECT ON DATABASE postgres, template1 FROM PUBLIC;
