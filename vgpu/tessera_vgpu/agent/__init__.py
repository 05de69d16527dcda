"""The node agent's process: ``tessera vgpu agent``. Start reading at :mod:`~tessera_vgpu.agent.process`."""
