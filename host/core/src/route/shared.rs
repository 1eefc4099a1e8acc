//! A built-in CEL value behind a counter: cloning it copies a pointer.
//!
//! The interpreter clones values freely: every element that a comprehension visits, everything that goes into a list or a
//! map. With plain containers `data.items.map(i, {"item": i, "all": data})` would copy the body once per item.

use std::sync::Arc;

use cel::ExecutionError;
use cel::common::traits::{Adder, Comparer, Container, Indexer, Iterable, Iterator, Sizer, Zeroer};
use cel::common::types::{CelList, CelMap, CelMapKey, CelString, Type};
use cel::common::value::{BuiltinRef, CowVal, Val};

/// One of CEL's own containers or a string. Expressions can't tell it from the value it holds.
#[derive(Debug)]
pub(crate) struct Shared<T>(Arc<T>);

impl<T> Shared<T> {
    /// Shares `value`.
    pub(crate) fn new(value: T) -> Self {
        Self(Arc::new(value))
    }
}

impl<T: Val + Walk> Val for Shared<T> {
    fn get_type(&self) -> &Type {
        self.0.get_type()
    }

    fn cel_type() -> &'static Type {
        T::cel_type()
    }

    fn as_adder<'b, 'v>(&'b self) -> Option<&'b (dyn Adder + 'v)>
    where
        Self: 'v,
    {
        self.0.as_adder()
    }

    fn as_comparer(&self) -> Option<&dyn Comparer> {
        self.0.as_comparer()
    }

    fn as_container(&self) -> Option<&dyn Container> {
        self.0.as_container()
    }

    fn as_indexer<'b, 'v>(&'b self) -> Option<&'b (dyn Indexer + 'v)>
    where
        Self: 'v,
    {
        self.0.as_indexer()
    }

    fn into_indexer<'v>(self: Box<Self>) -> Option<Box<dyn Indexer + 'v>>
    where
        Self: 'v,
    {
        self.0.as_indexer()?;
        Some(self)
    }

    fn as_iterable<'b, 'v>(&'b self) -> Option<&'b (dyn Iterable + 'v)>
    where
        Self: 'v,
    {
        self.0.as_iterable()?;
        Some(self)
    }

    fn as_sizer(&self) -> Option<&dyn Sizer> {
        self.0.as_sizer()
    }

    fn as_zeroer(&self) -> Option<&dyn Zeroer> {
        self.0.as_zeroer()
    }

    fn equals(&self, other: &dyn Val) -> bool {
        self.0.equals(other)
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v>
    where
        Self: 'v,
    {
        Box::new(Self(Arc::clone(&self.0)))
    }

    // How the interpreter and its functions recognise their own containers and strings.
    fn as_builtin<'b, 'v>(&'b self) -> BuiltinRef<'b, 'v>
    where
        Self: 'v,
    {
        self.0.as_builtin()
    }
}

impl<T: Val> Indexer for Shared<T> {
    fn get<'b, 'v>(&'b self, index: &dyn Val) -> Result<CowVal<'b, 'v>, ExecutionError>
    where
        Self: 'v,
    {
        self.0.as_indexer().ok_or_else(ExecutionError::missing_argument_or_target)?.get(index)
    }

    fn steal<'v>(self: Box<Self>, index: &dyn Val) -> Result<Box<dyn Val + 'v>, ExecutionError>
    where
        Self: 'v,
    {
        self.get(index).map(CowVal::into_owned)
    }
}

impl<T: Val + Walk> Iterable for Shared<T> {
    fn iter<'b, 'v>(&'b self) -> Box<dyn Iterator<'b, 'v> + 'b>
    where
        Self: 'v,
    {
        self.0.walk()
    }
}

/// How comprehensions go over a value.
pub(crate) trait Walk {
    /// All elements in order; for a map, its keys, sorted, so that the same message always makes the same results.
    fn walk<'b, 'v>(&'b self) -> Box<dyn Iterator<'b, 'v> + 'b>
    where
        Self: 'v;
}

impl Walk for CelList<'_> {
    fn walk<'b, 'v>(&'b self) -> Box<dyn Iterator<'b, 'v> + 'b>
    where
        Self: 'v,
    {
        Iterable::iter(self)
    }
}

impl Walk for CelMap<'_> {
    fn walk<'b, 'v>(&'b self) -> Box<dyn Iterator<'b, 'v> + 'b>
    where
        Self: 'v,
    {
        let mut keys: Vec<_> = self.keys().collect();
        keys.sort_unstable();
        Box::new(SortedKeys(keys.into_iter()))
    }
}

impl Walk for CelString<'_> {
    fn walk<'b, 'v>(&'b self) -> Box<dyn Iterator<'b, 'v> + 'b>
    where
        Self: 'v,
    {
        // Never asked for: strings are not iterable, and `as_iterable` says so.
        Box::new(SortedKeys(Vec::new().into_iter()))
    }
}

struct SortedKeys<'b, 'k>(std::vec::IntoIter<&'b CelMapKey<'k>>);

impl<'b, 'k: 'v, 'v> Iterator<'b, 'v> for SortedKeys<'b, 'k> {
    fn next(&mut self) -> Option<&'b (dyn Val + 'v)> {
        Some(self.0.next()?.inner())
    }
}
