// SPDX-License-Identifier: GPL-2.0-only
/*
 * Inline functions and macros of the kernel, as functions that Rust can call.
 */
#include <linux/cpumask.h>
#include <linux/highmem.h>
#include <linux/mm.h>
#include <linux/percpu.h>
#include <linux/ratelimit.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/sizes.h>

#include "dm_overlaybd.h"

/* Segments of a bio are reached through the linear map. */
#ifdef CONFIG_HIGHMEM
#error "dm-overlaybd needs a kernel without high memory"
#endif

void *dm_ovbd_page_address(struct page *page)
{
	return page_address(page);
}

/*
 * Whether a bio that ends here may be worked on here, for as long as it takes to
 * decompress: this is the task that submitted it, which would have to wait for
 * the result anyway, and nothing forbids it to sleep. A work item may be any
 * driver's, also if it runs in the thread that submitted.
 */
bool dm_ovbd_may_work_here(const struct task_struct *submitter)
{
	return current == submitter && !(current->flags & PF_WQ_WORKER) &&
	       !bio_in_atomic();
}

unsigned int dm_ovbd_this_cpu(void)
{
	return raw_smp_processor_id();
}

unsigned int dm_ovbd_possible_cpus(void)
{
	return num_possible_cpus();
}

unsigned int dm_ovbd_online_cpus(void)
{
	return num_online_cpus();
}

void dm_ovbd_cond_resched(void)
{
	cond_resched();
}

bool dm_ovbd_fatal_signal_pending(void)
{
	return fatal_signal_pending(current);
}

/*
 * Whether a table of @bytes leaves a sixteenth of the memory available. How long tables are is
 * for files to say, which may be crafted; their pages are charged to nobody, so that the OOM
 * killer would not find whom it looks for. Small tables need not ask: those of 255 layers are
 * 16 MiB at most.
 */
bool dm_ovbd_memory_to_spare(size_t bytes)
{
	long pages = bytes >> PAGE_SHIFT;
	long kept = totalram_pages() / 16;

	return bytes <= SZ_64K || pages < si_mem_available() - kept;
}

/* How long a request may be. */
u64 dm_ovbd_bdev_max_bytes(struct block_device *bdev)
{
	return (u64)queue_max_sectors(bdev_get_queue(bdev)) << SECTOR_SHIFT;
}

u64 dm_ovbd_bdev_bytes(struct block_device *bdev)
{
	return bdev_nr_bytes(bdev);
}

unsigned int dm_ovbd_bdev_logical_block_size(struct block_device *bdev)
{
	return bdev_logical_block_size(bdev);
}

/*
 * Whoever never waits may share fs_bio_set: nothing is taken of what is kept there for those
 * that do.
 */
struct bio *dm_ovbd_bio_alloc(unsigned short vecs, blk_opf_t opf, gfp_t gfp)
{
	return bio_alloc(NULL, vecs, opf, gfp);
}

void dm_ovbd_bio_remap(struct bio *bio, struct block_device *bdev, sector_t sector)
{
	bio_set_dev(bio, bdev);
	bio->bi_iter.bi_sector = sector;
}

/* Ends a read; if it went well, with memory that the CPU has written. */
void dm_ovbd_bio_end(struct bio *bio, blk_status_t status)
{
	if (ARCH_IMPLEMENTS_FLUSH_DCACHE_PAGE && !status) {
		struct bvec_iter iter;
		struct bio_vec vec;

		bio_for_each_segment(vec, bio, iter)
			flush_dcache_page(vec.bv_page);
	}
	bio->bi_status = status;
	bio_endio(bio);
}

/*
 * Items wait for neither I/O nor memory until they end their bio: more of them at a time
 * than CPUs gain nothing.
 */
struct workqueue_struct *dm_ovbd_alloc_workqueue(const char *name)
{
	return alloc_workqueue("%s", WQ_MEM_RECLAIM | WQ_UNBOUND, num_possible_cpus(), name);
}

void dm_ovbd_init_work(struct work_struct *work, work_func_t func)
{
	INIT_WORK(work, func);
}

/*
 * Queues @work for this CPU, or the @nth one after it. A worker of an unbound queue
 * begins on one of the CPUs that share a cache with the one that it is queued for: in
 * many virtual machines that is none other. If that one goes offline meanwhile, another
 * runs it.
 */
void dm_ovbd_queue_work(struct workqueue_struct *queue, struct work_struct *work,
			unsigned int nth)
{
	unsigned int cpu = raw_smp_processor_id();

	if (!nth) {
		queue_work(queue, work);
		return;
	}
	while (nth--)
		cpu = cpumask_next_wrap(cpu, cpu_online_mask);
	queue_work_on(cpu, queue, work);
}

void dm_ovbd_ratelimit_init(struct ratelimit_state *state)
{
	ratelimit_state_init(state, DEFAULT_RATELIMIT_INTERVAL, DEFAULT_RATELIMIT_BURST);
}

u64 __percpu *dm_ovbd_counters_alloc(unsigned int count)
{
	return __alloc_percpu(array_size(count, sizeof(u64)), __alignof__(u64));
}

void dm_ovbd_counters_free(u64 __percpu *counters)
{
	free_percpu(counters);
}

void dm_ovbd_counter_add(u64 __percpu *counters, unsigned int index, u64 value)
{
	this_cpu_add(counters[index], value);
}

u64 dm_ovbd_counter_sum(u64 __percpu *counters, unsigned int index)
{
	u64 sum = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		sum += READ_ONCE(per_cpu_ptr(counters, cpu)[index]);
	return sum;
}

void dm_ovbd_counter_reset(u64 __percpu *counters, unsigned int index)
{
	int cpu;

	for_each_possible_cpu(cpu)
		WRITE_ONCE(per_cpu_ptr(counters, cpu)[index], 0);
}

struct shrinker *dm_ovbd_shrinker_alloc(const char *name)
{
	return shrinker_alloc(0, "%s", name);
}

/*
 * SHA-256 is only for integrity measurement, with which dm core has the library, too: whether
 * that is so.
 */
bool dm_ovbd_sha256_init(struct sha256_ctx *ctx)
{
#ifdef CONFIG_IMA
	sha256_init(ctx);
#endif
	return IS_ENABLED(CONFIG_IMA);
}

void dm_ovbd_sha256_update(struct sha256_ctx *ctx, const u8 *data, size_t len)
{
#ifdef CONFIG_IMA
	sha256_update(ctx, data, len);
#endif
}

void dm_ovbd_sha256_final(struct sha256_ctx *ctx, u8 *digest)
{
#ifdef CONFIG_IMA
	sha256_final(ctx, digest);
#endif
}
