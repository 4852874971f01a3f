/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the Rust side of dm-overlaybd needs from C and the kernel crate does
 * not have: bindgen reads this header, helpers.c implements what it declares.
 */
#ifndef DM_OVERLAYBD_H
#define DM_OVERLAYBD_H

#include <crypto/sha2.h>
#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/crc32.h>
#include <linux/device-mapper.h>
#include <linux/lz4.h>
#include <linux/ratelimit_types.h>
#include <linux/shrinker.h>
#include <linux/workqueue.h>
#include <linux/zstd.h>

/* Macros that bindgen cannot evaluate; the prefix is cut off by Kbuild. */
static const blk_mode_t RUST_CONST_HELPER_BLK_OPEN_WRITE = BLK_OPEN_WRITE;
static const blk_features_t RUST_CONST_HELPER_BLK_FEAT_POLL = BLK_FEAT_POLL;
static const blk_flags_t RUST_CONST_HELPER_BLK_FLAG_MISALIGNED = BLK_FLAG_MISALIGNED;
static const blk_status_t RUST_CONST_HELPER_BLK_STS_IOERR = BLK_STS_IOERR;
static const blk_status_t RUST_CONST_HELPER_BLK_STS_AGAIN = BLK_STS_AGAIN;
static const blk_opf_t RUST_CONST_HELPER_DM_OVBD_REQ_NOWAIT = REQ_NOWAIT;
static const blk_opf_t RUST_CONST_HELPER_DM_OVBD_REQ_RAHEAD = REQ_RAHEAD;
static const blk_opf_t RUST_CONST_HELPER_DM_OVBD_REQ_OP_MASK = REQ_OP_MASK;
static const u64 RUST_CONST_HELPER_DM_OVBD_TARGET_NOWAIT = DM_TARGET_NOWAIT;

/* Flags of a bio that also apply to the read that it causes below. */
static const blk_opf_t RUST_CONST_HELPER_DM_OVBD_REQ_INHERIT =
	REQ_SYNC | REQ_META | REQ_PRIO | REQ_RAHEAD | REQ_IDLE | REQ_NOWAIT |
	REQ_FAILFAST_MASK | REQ_SWAP;

/*
 * Pages that are allocated together are one compound page: what is below may take a reference
 * of each page that it reads into, and without that the last of them would free the page.
 */
static const gfp_t RUST_CONST_HELPER_DM_OVBD_GFP_COMP = __GFP_COMP;

/* Constructors say what they could not have. */
static const gfp_t RUST_CONST_HELPER_DM_OVBD_GFP_CONSTRUCT = GFP_KERNEL | __GFP_NOWARN;

/*
 * One try at an allocation, as mempools make it before they fall back on what they keep: it
 * neither sleeps nor warns, nor takes of what is kept for those that free memory.
 */
static const gfp_t RUST_CONST_HELPER_DM_OVBD_GFP_TRY =
	GFP_NOWAIT | __GFP_NORETRY | __GFP_NOMEMALLOC;

void *dm_ovbd_page_address(struct page *page);

bool dm_ovbd_may_work_here(const struct task_struct *submitter);
unsigned int dm_ovbd_this_cpu(void);
unsigned int dm_ovbd_possible_cpus(void);
unsigned int dm_ovbd_online_cpus(void);
void dm_ovbd_cond_resched(void);
bool dm_ovbd_fatal_signal_pending(void);
bool dm_ovbd_memory_to_spare(size_t bytes);

u64 dm_ovbd_bdev_max_bytes(struct block_device *bdev);
u64 dm_ovbd_bdev_bytes(struct block_device *bdev);
unsigned int dm_ovbd_bdev_logical_block_size(struct block_device *bdev);
struct bio *dm_ovbd_bio_alloc(unsigned short vecs, blk_opf_t opf, gfp_t gfp);
void dm_ovbd_bio_remap(struct bio *bio, struct block_device *bdev, sector_t sector);
void dm_ovbd_bio_end(struct bio *bio, blk_status_t status);

struct workqueue_struct *dm_ovbd_alloc_workqueue(const char *name);
void dm_ovbd_init_work(struct work_struct *work, work_func_t func);
void dm_ovbd_queue_work(struct workqueue_struct *queue, struct work_struct *work,
			unsigned int nth);

void dm_ovbd_ratelimit_init(struct ratelimit_state *state);

u64 __percpu *dm_ovbd_counters_alloc(unsigned int count);
void dm_ovbd_counters_free(u64 __percpu *counters);
void dm_ovbd_counter_add(u64 __percpu *counters, unsigned int index, u64 value);
u64 dm_ovbd_counter_sum(u64 __percpu *counters, unsigned int index);
void dm_ovbd_counter_reset(u64 __percpu *counters, unsigned int index);

struct shrinker *dm_ovbd_shrinker_alloc(const char *name);

bool dm_ovbd_sha256_init(struct sha256_ctx *ctx);
void dm_ovbd_sha256_update(struct sha256_ctx *ctx, const u8 *data, size_t len);
void dm_ovbd_sha256_final(struct sha256_ctx *ctx, u8 *digest);

#endif
