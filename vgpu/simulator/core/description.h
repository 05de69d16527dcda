/* What the simulated machine is: written once by whoever prepares the shared file, only read afterwards.

   The layout is fixed and has no padding: 64-bit numbers and character arrays only, so that any language can write it. A change of it
   changes DESCRIPTION_VERSION; the libraries refuse a file of another version. */
#ifndef SIMULATOR_DESCRIPTION_H
#define SIMULATOR_DESCRIPTION_H

#include <stdint.h>

#define DESCRIPTION_MAGIC 0x31554d4953555047ull /* "GPUSIMU1" */
#define DESCRIPTION_VERSION 1
#define MAX_CARDS 16
#define MAX_PROFILES 16
#define MAX_STARTS 8

enum clock_kind { CLOCK_SCALED = 0, CLOCK_VIRTUAL = 1 };

/* One row of the card's table of MIG profiles; names as in nvmlGpuInstanceProfileInfo_v3_t. */
struct profile_description {
    char name[32];
    uint64_t nvml, id, slices, instances, multiprocessors, copy_engines, decoders, jpegs, ofas, memory_mib;
    uint64_t size, start_count, starts[MAX_STARTS];
};

struct card_description {
    char product[96];
    char uuid[48]; /* as text, "GPU-…" */
    char bus_id[32];
    uint64_t architecture, capability_major, capability_minor, pci_device;
    uint64_t memory_mib, reserved_mib, context_mib;
    uint64_t multiprocessors, threads_per_multiprocessor, shared_memory_per_multiprocessor, shared_memory_per_block_optin;
    uint64_t l2_cache_bytes, clock_khz, memory_clock_khz, memory_bus_bits, power_limit_mw;
    uint64_t slice_ns, switch_ns, launch_host_ns, launch_device_ns, graph_node_ns, event_host_ns, event_device_ns;
    uint64_t context_create_ns, allocation_host_ns, copy_latency_ns;
    uint64_t host_copy_bytes_per_us, device_copy_bytes_per_us, fill_bytes_per_us;
    uint64_t utilisation_period_ns, utilisation_window_ns, utilisation_lag_ns;
    uint64_t mig_memory_slices, mig_max_instances, mig_reset_required, profile_count;
    struct profile_description profiles[MAX_PROFILES];
};

struct machine_description {
    uint64_t magic, version, bytes, card_bytes;
    uint64_t card_count, clock, dilation_ppm; /* real nanoseconds for a million simulated ones, in parts: 1,000,000 is real time */
    uint64_t driver_version;                  /* as cuDriverGetVersion says it, for example 13000 */
    char driver_release[32];                  /* as NVML says it, for example "580.95.05" */
    uint64_t monotonic_base_ns, wall_base_us; /* both at the moment when simulated time was 0 */
    struct card_description cards[MAX_CARDS];
};

#endif
