// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Which changes are made to which image.

use crate::rng::Rng;

/// The most changes of an image.
const TOGETHER: usize = 3;

/// Changes for one image after the other: every second one has a single change, until each change
/// was had; the others have several, at random.
pub struct Plan<F, C> {
    /// Each form, and the changes that there are for it: of records, and others. The first are
    /// refused nearly always, so that they are drawn as often as the others, not more often.
    forms: Vec<(F, [Vec<C>; 2])>,
    /// Each change once, in one of the forms.
    singles: Vec<(F, C)>,
    images: u64,
}

impl<F: Copy, C: Clone> Plan<F, C> {
    /// Of all that `changes` has for each form.
    pub fn new(
        forms: &[F],
        changes: impl Fn(F) -> Vec<C>,
        is_record: impl Fn(&C) -> bool,
        rng: &mut Rng,
    ) -> Self {
        let all: Vec<_> = forms.iter().map(|&form| (form, changes(form))).collect();
        let mut singles = deal(&all);
        rng.shuffle(&mut singles);
        let split = |(form, changes): (F, Vec<C>)| {
            let (records, others) = changes.into_iter().partition(&is_record);
            (form, [records, others])
        };
        Self {
            forms: all.into_iter().map(split).collect(),
            singles,
            images: 0,
        }
    }

    /// How many changes are still to be had alone.
    pub fn left(&self) -> usize {
        self.singles.len()
    }

    /// The next image's form and changes.
    pub fn next(&mut self, rng: &mut Rng) -> (F, Vec<C>) {
        self.images += 1;
        if self.images % 2 == 1 {
            if let Some((form, change)) = self.singles.pop() {
                return (form, vec![change]);
            }
        }
        let (form, lists) = &self.forms[rng.index(self.forms.len())];
        let count = 2 + rng.index(TOGETHER - 1);
        let mut draw = || {
            let list = &lists[rng.index(2)];
            list[rng.index(list.len())].clone()
        };
        (*form, (0..count).map(|_| draw()).collect())
    }
}

/// Every change, each of them in one of the forms, dealt out in turn.
fn deal<F: Copy, C: Clone>(forms: &[(F, Vec<C>)]) -> Vec<(F, C)> {
    let mut dealt = Vec::new();
    for (number, (form, changes)) in forms.iter().enumerate() {
        let mine = changes.iter().skip(number).step_by(forms.len());
        dealt.extend(mine.map(|change| (*form, change.clone())));
    }
    dealt
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_had_alone_once() {
        let mut rng = Rng::for_test("plan");
        let changes = |_| (0..8).collect::<Vec<u32>>();
        let mut plan = Plan::new(&['a', 'b', 'c'], changes, |&n| n < 2, &mut rng);
        assert_eq!(plan.left(), 8);
        let mut alone = Vec::new();
        for image in 0..40 {
            let (form, changes) = plan.next(&mut rng);
            assert!("abc".contains(form));
            assert!(changes.len() <= TOGETHER);
            if let [change] = changes[..] {
                assert_eq!(image % 2, 0);
                alone.push(change);
            }
        }
        alone.sort_unstable();
        assert_eq!(alone, [0, 1, 2, 3, 4, 5, 6, 7]);
    }
}
