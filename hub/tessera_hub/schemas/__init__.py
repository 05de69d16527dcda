"""The one schema: pydantic models of the API and of the Proxy protocol; OpenAPI and the TypeScript types come from here."""
